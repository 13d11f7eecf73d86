"""Deployment at the edge."""
