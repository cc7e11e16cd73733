//! Where the cluster's state is kept: the trait, etcd v3, and a store in memory.
