"""Weights from elsewhere: keras.applications' networks, our own files, torch's state dicts."""
