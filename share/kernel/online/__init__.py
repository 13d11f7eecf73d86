"""The online engine behind HTTP: an OpenAI-compatible API, metrics, alerts, and pages for reviewers and operators."""
