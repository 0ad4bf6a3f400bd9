"""Transcribe a private model into a differentially private student that may be released."""
