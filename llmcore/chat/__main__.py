"""`python -m llmcore.chat`: a conversation in the terminal."""

import sys

from ..cli.chat import main

sys.exit(main())
