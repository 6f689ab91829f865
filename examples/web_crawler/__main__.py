from __future__ import annotations

import sys

from web_crawler.run import main

sys.exit(main())
