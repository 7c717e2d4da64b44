"""A Python tool for LangChain and LangGraph (``pip install langchain-core``), on your own machine. ::

    from cella import Sandbox
    from cella.integrations.langchain import run_python_tool
    from langchain.agents import create_agent

    with Sandbox() as sandbox:
        agent = create_agent("openai:gpt-5", tools=[run_python_tool(sandbox)])
        agent.invoke({"messages": [{"role": "user", "content": "What is the 1000th prime?"}]})
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Tuple, Union

try:
    from langchain_core.runnables import RunnableConfig
    from langchain_core.tools import StructuredTool
except ImportError as e:
    raise ImportError(f"cella.integrations.langchain needs the package langchain-core: pip install langchain-core ({e})") from e

from .. import Sandbox
from ..errors import InvalidRequest, TooLargeError
from ..models import Execution
from ._answers import DESCRIPTION, NAME, PARAMETERS, TIMEOUT_SECONDS, answer, code_of
from ._twin import asynchronous

Content = Union[str, List[Dict[str, Any]]]


def run_python_tool(
    sandbox: Union[Sandbox, Callable[[RunnableConfig], Sandbox]],
    name: str = NAME,
    description: str = DESCRIPTION,
    timeout_seconds: float = TIMEOUT_SECONDS,
    images: bool = False,
) -> StructuredTool:
    """A tool that runs Python; ``ToolMessage.artifact`` has the whole :class:`cella.Execution`.

    Args:
        sandbox: where it runs; yours to close. When one agent serves several conversations, give a function that returns the
            sandbox of ``config["configurable"]["thread_id"]``: whoever shares a sandbox sees the other's variables and files.
        timeout_seconds: of one call; the code is interrupted then, its variables stay.
        images: figures go to the model as image blocks. Not every model takes them from a tool; without it the text names
            them, and the artifact has them.
    """

    def of(config: RunnableConfig) -> Sandbox:
        return sandbox if isinstance(sandbox, Sandbox) else sandbox(config)

    def run(config: RunnableConfig, **arguments: Any) -> Tuple[Content, Optional[Execution]]:
        try:
            return content(of(config).run_code(code_of(arguments), timeout_seconds=timeout_seconds))
        except (ValueError, InvalidRequest, TooLargeError) as e:  # the model's mistake, and the model's to mend
            return f"error: {e}", None

    async def arun(config: RunnableConfig, **arguments: Any) -> Tuple[Content, Optional[Execution]]:
        try:
            code = code_of(arguments)
            cell = await asynchronous(of(config))
            return content(await cell.run_code(code, timeout_seconds=timeout_seconds))
        except (ValueError, InvalidRequest, TooLargeError) as e:
            return f"error: {e}", None

    def content(execution: Execution) -> Tuple[Content, Execution]:
        done = answer(execution)
        if not (images and done.images):
            return done.text_only, execution
        blocks: List[Dict[str, Any]] = [{"type": "text", "text": done.text}]
        return blocks + [{"type": "image", "base64": i.base64, "mime_type": i.mime} for i in done.images], execution

    return StructuredTool.from_function(
        run, arun, name, description, args_schema=PARAMETERS, infer_schema=False, response_format="content_and_artifact"
    )
