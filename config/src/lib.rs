//! What the operator wants: Patroni's configuration files, read, checked and merged.
