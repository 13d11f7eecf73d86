"""What personal data looks like in text, and how it is kept from every disk; docs/privacy.md says what is not found."""
