"""Encoders: a modality in, tokens and a pooled vector out."""
