# SPDX-License-Identifier: Apache-2.0
"""What vLLM calls in each of its processes before it reads its configuration.

Responsible for making the name "TuttiConnector" known to vLLM. Must not import
the connector itself (vLLM does so when it is asked for), nor fail: every vLLM on
this machine loads its plug-ins, whether it uses Tutti or not.
"""

import contextlib


def register() -> None:
    """Make TuttiConnector known; calling it again changes nothing."""
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    with contextlib.suppress(ValueError):  # "already registered": it is called more than once
        KVConnectorFactory.register_connector(
            "TuttiConnector", "tutti_kv.connector", "TuttiConnector"
        )
