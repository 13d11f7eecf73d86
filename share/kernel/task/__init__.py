"""Sources of prompts: generated tasks on real pixels, and files of your own."""
