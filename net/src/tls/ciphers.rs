//! OpenSSL's cipher lists, as far as they concern suites that rustls has (openssl-ciphers(1), "Cipher list format").
//!
//! As with OpenSSL such a list is about TLS 1.2; the suites of TLS 1.3 are always there. rustls has no suite without
//! forward secrecy and authenticated encryption, so a list of only such ones leaves nothing.

use rustls::{CipherSuite, SupportedCipherSuite};

/// The suites that the list leaves; `None` when it leaves none of TLS 1.2.
pub(super) fn select(list: &str, suites: &[SupportedCipherSuite]) -> Option<Vec<SupportedCipherSuite>> {
    let mut chosen: Vec<SupportedCipherSuite> = Vec::new();
    let mut banned: Vec<CipherSuite> = Vec::new();
    for term in list.split([':', ',', ' ']) {
        // `DEFAULT@SECLEVEL=2`: what is here is of level 2 and more.
        let term = term.split('@').next().unwrap_or_default();
        if term.is_empty() {
            continue;
        }
        let fitting: Vec<SupportedCipherSuite> = suites
            .iter()
            .copied()
            .filter(|suite| fits(suite.suite(), term.trim_start_matches(['!', '-', '+'])))
            .collect();
        let is_fitting =
            |suite: &SupportedCipherSuite| fitting.iter().any(|other| other.suite() == suite.suite());
        match term.chars().next() {
            Some('!') => {
                chosen.retain(|suite| !is_fitting(suite));
                banned.extend(fitting.iter().map(SupportedCipherSuite::suite));
            }
            Some('-') => chosen.retain(|suite| !is_fitting(suite)),
            // These are moved to the end.
            Some('+') => {
                let (moved, kept): (Vec<_>, Vec<_>) = chosen.into_iter().partition(is_fitting);
                chosen = [kept, moved].concat();
            }
            _ => {
                for suite in fitting {
                    let is_new = chosen.iter().all(|other| other.suite() != suite.suite());
                    if is_new && !banned.contains(&suite.suite()) {
                        chosen.push(suite);
                    }
                }
            }
        }
    }
    if chosen.is_empty() {
        return None;
    }
    let always = suites.iter().copied().filter(|suite| suite.tls13().is_some());
    Some(always.chain(chosen).collect())
}

/// Words that mean every suite of TLS 1.2 that there is here.
const COMMON: &[&str] = &[
    "ALL", "DEFAULT", "HIGH", "FIPS", "TLSv1.2", "AEAD", "ECDHE", "EECDH", "kECDHE", "kEECDH",
];

/// Whether a term, such as `ECDHE+AESGCM`, means the suite.
fn fits(suite: CipherSuite, term: &str) -> bool {
    let Some((name, words)) = describe(suite) else {
        return false;
    };
    let is_meant = |word: &str| words.contains(&word) || COMMON.contains(&word);
    term == name || term.split('+').all(is_meant)
}

/// OpenSSL's name of a suite of TLS 1.2, and the words that mean it among others.
fn describe(suite: CipherSuite) -> Option<(&'static str, &'static [&'static str])> {
    const RSA_128: &[&str] = &["aRSA", "RSA", "AES", "AES128", "AESGCM", "SHA256"];
    const RSA_256: &[&str] = &["aRSA", "RSA", "AES", "AES256", "AESGCM", "SHA384"];
    const RSA_CHACHA: &[&str] = &["aRSA", "RSA", "CHACHA20", "SHA256"];
    const ECDSA_128: &[&str] = &["aECDSA", "ECDSA", "AES", "AES128", "AESGCM", "SHA256"];
    const ECDSA_256: &[&str] = &["aECDSA", "ECDSA", "AES", "AES256", "AESGCM", "SHA384"];
    const ECDSA_CHACHA: &[&str] = &["aECDSA", "ECDSA", "CHACHA20", "SHA256"];
    match suite {
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => Some(("ECDHE-RSA-AES128-GCM-SHA256", RSA_128)),
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Some(("ECDHE-RSA-AES256-GCM-SHA384", RSA_256)),
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => {
            Some(("ECDHE-RSA-CHACHA20-POLY1305", RSA_CHACHA))
        }
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => {
            Some(("ECDHE-ECDSA-AES128-GCM-SHA256", ECDSA_128))
        }
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => {
            Some(("ECDHE-ECDSA-AES256-GCM-SHA384", ECDSA_256))
        }
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => {
            Some(("ECDHE-ECDSA-CHACHA20-POLY1305", ECDSA_CHACHA))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::ring::ALL_CIPHER_SUITES;

    use super::{describe, select};

    /// The suites of TLS 1.2 that are left, by OpenSSL's names.
    fn names(list: &str) -> Option<Vec<&'static str>> {
        let suites = select(list, ALL_CIPHER_SUITES)?;
        let is_there = |version13: bool| {
            suites
                .iter()
                .filter(|it| it.tls13().is_some() == version13)
                .count()
        };
        assert_eq!(is_there(true), 3, "TLS 1.3 is not touched");
        Some(
            suites
                .iter()
                .filter_map(|suite| Some(describe(suite.suite())?.0))
                .collect(),
        )
    }

    #[test]
    fn lists_are_read_as_openssl_reads_them() {
        let one = "ECDHE-RSA-AES128-GCM-SHA256";
        assert_eq!(names(one), Some(vec![one]));
        assert_eq!(
            names("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:AES128-SHA"),
            Some(vec![one, "ECDHE-ECDSA-CHACHA20-POLY1305"])
        );
        // The example of Patroni's documentation.
        let all = names("ALL:!SSLv1:!SSLv2:!SSLv3:!TLSv1:!TLSv1.1").unwrap();
        assert_eq!(all.len(), 6);
        assert_eq!(names("HIGH:!aNULL:!MD5"), Some(all.clone()));
        assert_eq!(names("DEFAULT@SECLEVEL=2"), Some(all.clone()));
        assert_eq!(names("DEFAULT:@STRENGTH"), Some(all));
        assert_eq!(
            names("ECDHE+AESGCM:!ECDSA"),
            Some(vec!["ECDHE-RSA-AES256-GCM-SHA384", one])
        );
        assert_eq!(
            names("!AESGCM:ALL:-aECDSA"),
            Some(vec!["ECDHE-RSA-CHACHA20-POLY1305"])
        );
        assert_eq!(
            names("EECDH:+CHACHA20").unwrap().last().copied(),
            Some("ECDHE-RSA-CHACHA20-POLY1305")
        );
        for nothing in [
            "",
            "AES128-SHA",
            "DHE-RSA-AES256-GCM-SHA384",
            "ALL:!ECDHE",
            "nonsense",
        ] {
            assert_eq!(names(nothing), None, "{nothing}");
        }
    }
}
