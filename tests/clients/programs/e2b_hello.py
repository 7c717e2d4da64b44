from e2b_code_interpreter import Sandbox
from e2b_steps import finish, step


@step("hello")
def hello() -> str:
    with Sandbox.create(timeout=600) as s:
        s.run_code("x = 42", timeout=0, request_timeout=0)
        s.create_code_context()
        return s.commands.run("echo -n hello").stdout + " " + s.run_code("x", timeout=0, request_timeout=0).text


finish()
