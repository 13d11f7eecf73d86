"""The nouns of Pixelis: frozen, slotted values without behaviour, light to import."""
