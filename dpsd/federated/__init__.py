"""FedDPSD: transcription across clients that share neither data nor models."""
