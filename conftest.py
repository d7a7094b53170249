"""What do the tests and the claims of this repository share?

Only the environment: no network for the Hugging Face libraries, and one thread a process, because
pytest-xdist already runs a process a core. Set before anything imports torch, which is never here.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked test processes deadlock otherwise
