# Start of the shell context of a cell: bash with one loaded builtin that serves the context stream (cella_shell.h).
#
#   bash --noprofile --norc kernel.sh
#
# Descriptors and CELLA_KERNEL_DIRECT as in python/kernel.py. The builtin never returns.
if [[ -r /etc/cella/environment ]]; then
    while IFS= read -r REPLY || [[ -n $REPLY ]]; do
        [[ $REPLY == [A-Za-z_]*=* ]] && export "$REPLY"
    done </etc/cella/environment
    unset REPLY
fi
enable -f "${BASH_SOURCE[0]%/*}/cella_shell.so" cella_serve && cella_serve
exit 1
