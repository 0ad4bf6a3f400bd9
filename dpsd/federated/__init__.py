"""Transcription across clients that share neither data nor models."""
