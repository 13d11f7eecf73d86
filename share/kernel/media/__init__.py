"""Images, videos, masks and boxes; and the operator, which runs operations on them within limits."""
