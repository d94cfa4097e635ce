"""Structured logs."""

from typing import Any

import structlog


def get(name: str) -> Any:
    """Give a logger."""
    return structlog.get_logger().bind(logger=name)
