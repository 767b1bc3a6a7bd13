"""Artifacts in object storage: read and written through local mirrors, locked by claims."""
