"""The tests; they mirror share/kernel."""
