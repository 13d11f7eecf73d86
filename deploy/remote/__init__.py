"""Deployment as a server."""
