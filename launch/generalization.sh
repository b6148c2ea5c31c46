#!/usr/bin/env bash
# Tables 3-6: every supervised run scored on the targets as it is, and at its milestones.
#   launch/generalization.sh [--dry-run | --submit] [S.6 S.10 ...]                        more: launch/family.sh
exec "$(dirname "$0")/family.sh" generalization "$@"
