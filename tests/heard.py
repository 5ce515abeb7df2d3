"""What a command would have told its user."""

from capdeploy.progress import Quiet


class Listening(Quiet):
    """Remembers what it hears."""

    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)

    def heard(self, word):
        """Return the notes that have a word."""
        return [note for note in self.notes if word in note]
