"""The interface of all models."""
