"""tests/support/image_tool.c as an object: the process driver by hand, one per "daemon"."""
import json
import os
import pathlib
import secrets
import subprocess

BUILD = pathlib.Path(os.environ.get("CELLA_BUILD", pathlib.Path(__file__).resolve().parents[2] / "build" / "bin"))
PROGRAM = pathlib.Path(os.environ.get("CELLA_IMAGE_TOOL", BUILD.parent / "tests" / "support" / "image_tool"))


class Refused(Exception):
    def __init__(self, answer):
        super().__init__(answer["error"])
        self.text, self.code, self.hint = answer["error"], answer["code"], answer["hint"]


class Tool:
    def __init__(self, running, **environment):
        self.running, self.events = running, []
        self.process = subprocess.Popen([PROGRAM, running.path, running.state], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, **environment})
        self.answer()

    def answer(self):
        while True:
            line = self.process.stdout.readline()
            if not line:
                raise EOFError(f"image_tool ended: {self.process.wait()}")
            said = json.loads(line)
            if "event" in said:
                self.events.append(said)
            elif "error" in said:
                raise Refused(said)
            else:
                return said

    def __call__(self, op, **fields):
        self.process.stdin.write(json.dumps(dict(op=op, **fields)) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def create(self, template):
        return self("create", template=template)["cell"]

    def run(self, cell, code, slot=0):
        """What the code printed; an error is a failure of the test."""
        said = self("run", cell=cell, slot=slot, code=code)
        assert '"ok"' in said["done"] or '"exit_code"' in said["done"], said
        return said["output"]

    def freeze(self, cell, hold=False):
        """(id, directory, what freeze said)"""
        image = "img_" + secrets.token_hex(16)
        directory = self.running.state / image
        directory.mkdir()
        return image, directory, self("freeze", cell=cell, image=image, dir=str(directory), hold=int(hold))

    def thaw(self, image, directory, **fields):
        return self("thaw", image=image, dir=str(directory), **fields)

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(30) == 0
        self.process.stdout.close()
