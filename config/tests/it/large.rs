//! Mappings with very many keys, as somebody may send them: no slower for each key than small ones.

use tamada_config::{Map, Value};

const KEYS: i64 = 100_000;

fn key(number: i64) -> String {
    format!("k{number}")
}

#[test]
fn a_large_mapping_is_changed_like_a_small_one() {
    let mut map = Map::new();
    for number in 0..KEYS {
        assert!(map.insert(key(number), number).is_none());
    }
    assert_eq!(map.insert(key(7), -7), Some(Value::from(7)));
    let mut patch = Map::new();
    for number in (0..KEYS).filter(|number| number % 2 == 0) {
        patch.insert(key(number), Value::default());
    }
    patch.insert(key(9), -9);
    patch.insert("new", 1);
    assert!(map.patch(&patch) && !map.patch(&patch));
    assert_eq!(map.len(), 50_001);
    for (number, expected) in [(6, None), (7, Some(-7)), (9, Some(-9)), (99_999, Some(99_999))] {
        assert_eq!(
            map.get(&key(number)),
            expected.map(Value::from).as_ref(),
            "{number}"
        );
    }
    assert_eq!(map.remove("k1"), Some(Value::from(1)));
    assert!(map.get("k1").is_none());
    assert_eq!(map.get("new"), Some(&Value::from(1)));
    map.retain(|key, _| key.len() < 3);
    let keys: Vec<&str> = map.iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["k3", "k5", "k7", "k9"]);
    *map.get_mut("k5").unwrap() = Value::from(55);
    assert_eq!(map.get("k5"), Some(&Value::from(55)));
}
