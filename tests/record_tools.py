"""Record what transformers makes of the functions in tool_functions.py: tests/data/tool_schemas.json.

PYTHON tests/record_tools.py

PYTHON is the interpreter of an environment with transformers.
"""

import json
from pathlib import Path

import transformers
from tool_functions import FUNCTIONS
from transformers.utils.chat_template_utils import get_json_schema

if __name__ == "__main__":
    about = f"get_json_schema of transformers {transformers.__version__} on tests/tool_functions.py"
    record = {"about": about, "schemas": [get_json_schema(function) for function in FUNCTIONS]}
    target = Path(__file__).parent / "data" / "tool_schemas.json"
    target.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{target}: {len(FUNCTIONS)} schemas")
