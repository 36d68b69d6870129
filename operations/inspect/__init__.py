"""Why a SKU says what it says, told from the topics alone; it only reads, and joins no group."""

from operations.inspect.answer import Explanation, Question, Unknown
from operations.inspect.read import explain_sku
from operations.inspect.show import as_json, render

__all__ = ["Explanation", "Question", "Unknown", "as_json", "explain_sku", "render"]
