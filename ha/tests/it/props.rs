//! What holds whatever the facts are.

use proptest::prelude::*;
use tamada_ha::cluster::{MemberData, Status};
use tamada_ha::pg::{Lsn, MemberName};

proptest! {
    #[test]
    fn an_lsn_reads_what_it_prints(bytes: u64) {
        prop_assert_eq!(Lsn(bytes).to_string().parse(), Ok(Lsn(bytes)));
    }

    #[test]
    fn no_member_key_is_too_odd_to_read(text: String) {
        let read = MemberData::parse(&text);
        prop_assert_eq!(MemberData::parse(&read.to_json()), read);
    }

    #[test]
    fn no_status_is_too_odd_to_read(text: String) {
        let read = Status::parse(&text);
        let again = Status::parse(&read.to_json());
        prop_assert_eq!(again.optime.unwrap_or_default(), read.optime.unwrap_or_default());
    }

    #[test]
    fn a_slot_name_is_one_that_postgresql_takes(name: String) {
        let slot = MemberName(name).slot_name().0;
        prop_assert!(slot.len() <= 63);
        prop_assert!(slot.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
    }
}
