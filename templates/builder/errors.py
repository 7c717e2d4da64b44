"""The one exception of the builder: a sentence for the user and, where there is one, what to do next."""


class BuildError(Exception):
    def __init__(self, text: str, hint: str = ""):
        super().__init__(text)
        self.hint = hint
