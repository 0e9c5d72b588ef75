"""Get a real model to try llmcore with: `python scripts/fetch_model.py [smollm2|gemma3|hf:...]`, as `llmcore
get` does.
"""

import sys

from llmcore.cli.get import main

if __name__ == "__main__":
    sys.exit(main())
