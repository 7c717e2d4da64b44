"""Cella for agent frameworks. Each module stands for itself, and imports its framework only when it is imported:

==================  =====================================================================================
``anthropic``       tools for the Messages API: code execution, bash, text editor
``openai``          a tool for chat completions and the Responses API
``openai_agents``   a code interpreter for the OpenAI Agents SDK
``langchain``       a tool for LangChain and LangGraph
==================  =====================================================================================
"""
