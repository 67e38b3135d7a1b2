# SPDX-License-Identifier: Apache-2.0
"""Tutti: an LLM server's KV cache on SSDs, verified, found again after a restart.

This package is the binding of libtutti (`tutti_kv._tutti`) and the connector for
vLLM (`tutti_kv.connector`), which vLLM finds by its plug-in entry point. It holds
no data-path logic: it turns the engine's callbacks into calls of the library.
"""
