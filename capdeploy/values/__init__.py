"""The nouns that travel: frozen, checked at birth, to and from JSON. No torch here."""
