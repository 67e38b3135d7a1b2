# SPDX-License-Identifier: Apache-2.0
"""What vLLM calls in each of its processes before it reads its configuration.

Responsible for making the name "TuttiConnector" known to vLLM. Must not import
the connector itself (vLLM does so when it is asked for), nor fail: every vLLM on
this machine loads its plug-ins, whether it uses Tutti or not.
"""

import contextlib
import time

# When this process came here, by the wall clock: before it, or a worker of it, loads weights.
registered_at: float | None = None


def register() -> None:
    """Make TuttiConnector known; calling it again changes nothing."""
    global registered_at
    if registered_at is None:
        registered_at = time.time()
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    with contextlib.suppress(ValueError):  # "already registered": it is called more than once
        KVConnectorFactory.register_connector(
            "TuttiConnector", "tutti_kv.connector", "TuttiConnector"
        )
