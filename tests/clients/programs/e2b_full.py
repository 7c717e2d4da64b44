import io
import os

from e2b import Sandbox
from e2b_steps import finish, step

files = Sandbox.connect(os.environ["SANDBOX"]).files
large = bytes(80 * 1024 * 1024)
files.write("kept", "old")
step("octets")(lambda: files.write("kept", io.BytesIO(large), use_octet_stream=True, request_timeout=0) and None)
step("form")(lambda: files.write("kept", io.BytesIO(large), use_octet_stream=False, request_timeout=0) and None)
step("kept")(lambda: files.read("kept"))
finish()
