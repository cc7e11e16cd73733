//! The same cluster on every DCS: switchovers, an agent that dies, a host that is lost, a DCS that restarts and one that nobody
//! reaches; and with Patroni as one of its members. On etcd v3 the other tests show most of it every day.

mod consul;
mod mixed;
mod moves;
mod servers;
mod story;

use crate::harness::cluster::Timers;
use crate::harness::etcd::Etcd;
use crate::harness::store::{Consul, Etcd2, Exhibitor, Kubernetes, RealKubernetes, Zookeeper};
use mixed::with_patroni;
use servers::servers_fail;
use story::{members_fail, the_store_fails, the_store_fails_within};

/// The real API server needs some seconds to start again.
const OUTLIVES_A_RESTART: Timers = Timers {
    ttl: 40,
    loop_wait: 2,
    retry_timeout: 5,
};

#[test]
#[ignore = "long: make test-all"]
fn members_fail_on_etcd() {
    members_fail(Etcd::new(1));
}

#[test]
fn members_fail_on_etcd_by_its_version_2() {
    members_fail(Etcd2::new(1));
}

#[test]
fn members_fail_on_consul() {
    members_fail(Consul::new());
}

#[test]
fn members_fail_on_zookeeper() {
    members_fail(Zookeeper::new());
}

#[test]
#[ignore = "long: make test-all"]
fn members_fail_on_zookeeper_behind_exhibitor() {
    members_fail(Exhibitor::new());
}

#[test]
fn members_fail_on_kubernetes_with_config_maps() {
    members_fail(Kubernetes::with_config_maps());
}

#[test]
#[ignore = "long: make test-all"]
fn members_fail_on_kubernetes_with_endpoints() {
    members_fail(Kubernetes::with_endpoints());
}

#[test]
#[ignore = "long: make test-all"]
fn etcd_fails() {
    the_store_fails(Etcd::new(1), "etcd3");
}

#[test]
fn etcd_by_its_version_2_fails() {
    the_store_fails(Etcd2::new(1), "etcd");
}

#[test]
fn consul_fails() {
    the_store_fails(Consul::new(), "consul");
}

#[test]
fn zookeeper_fails() {
    the_store_fails(Zookeeper::new(), "zookeeper");
}

#[test]
#[ignore = "long: make test-all"]
fn zookeeper_behind_exhibitor_fails() {
    the_store_fails(Exhibitor::new(), "exhibitor");
}

#[test]
fn kubernetes_with_config_maps_fails() {
    the_store_fails(Kubernetes::with_config_maps(), "kubernetes");
}

#[test]
#[ignore = "long: make test-all"]
fn kubernetes_with_endpoints_fails() {
    the_store_fails(Kubernetes::with_endpoints(), "kubernetes");
}

#[test]
#[ignore = "long: make test-all"]
fn patroni_is_one_of_three_on_etcd_by_its_version_2() {
    with_patroni(Etcd2::new(1));
}

#[test]
#[ignore = "long: make test-all"]
fn patroni_is_one_of_three_on_consul() {
    with_patroni(Consul::new());
}

#[test]
#[ignore = "long: make test-all"]
fn patroni_is_one_of_three_on_zookeeper() {
    with_patroni(Zookeeper::new());
}

#[test]
#[ignore = "long: make test-all"]
fn patroni_is_one_of_three_on_zookeeper_behind_exhibitor() {
    with_patroni(Exhibitor::new());
}

#[test]
#[ignore = "long: make test-all"]
fn patroni_is_one_of_three_on_kubernetes_with_config_maps() {
    with_patroni(Kubernetes::with_config_maps());
}

#[test]
#[ignore = "long: make test-all"]
fn patroni_is_one_of_three_on_kubernetes_with_endpoints() {
    with_patroni(Kubernetes::with_endpoints());
}

#[test]
#[ignore = "long: make test-all"]
fn members_fail_on_the_real_kubernetes_with_config_maps() {
    members_fail(RealKubernetes::with_config_maps());
}

#[test]
#[ignore = "long: make test-all"]
fn members_fail_on_the_real_kubernetes_with_endpoints() {
    members_fail(RealKubernetes::with_endpoints());
}

#[test]
#[ignore = "long: make test-all"]
fn the_real_kubernetes_with_config_maps_fails() {
    let store = RealKubernetes::with_config_maps();
    the_store_fails_within(store, "kubernetes", OUTLIVES_A_RESTART);
}

#[test]
#[ignore = "long: make test-all"]
fn the_real_kubernetes_with_endpoints_fails() {
    let store = RealKubernetes::with_endpoints();
    the_store_fails_within(store, "kubernetes", OUTLIVES_A_RESTART);
}

#[test]
#[ignore = "long: make test-all"]
fn patroni_is_one_of_three_on_the_real_kubernetes_with_config_maps() {
    with_patroni(RealKubernetes::with_config_maps());
}

#[test]
#[ignore = "long: make test-all"]
fn patroni_is_one_of_three_on_the_real_kubernetes_with_endpoints() {
    with_patroni(RealKubernetes::with_endpoints());
}

#[test]
#[ignore = "long: make test-all"]
fn servers_of_consul_fail() {
    servers_fail(Consul::of(3));
}

#[test]
#[ignore = "long: make test-all"]
fn servers_of_zookeeper_fail() {
    servers_fail(Zookeeper::of(3));
}
