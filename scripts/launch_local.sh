#!/usr/bin/env bash
echo "error: scripts/launch_local.sh is now scripts/launch/local.sh" >&2
exit 2
