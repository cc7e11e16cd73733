//! How what many own together is written and read: as a value of its own each time. And times, as seconds.

use std::sync::Arc;
use std::time::Duration;

use config::{DynamicConfig, Minimums};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::facts::Moment;

/// `Arc<T>`.
pub(crate) mod arc {
    use super::*;

    pub(crate) fn serialize<T: Serialize, S: Serializer>(value: &Arc<T>, to: S) -> Result<S::Ok, S::Error> {
        T::serialize(value, to)
    }

    pub(crate) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Arc<T>, D::Error> {
        T::deserialize(from).map(Arc::new)
    }
}

/// `Option<Arc<T>>`.
pub(crate) mod arc_option {
    use super::*;

    pub(crate) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<Arc<T>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_deref().serialize(to)
    }

    pub(crate) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Arc<T>>, D::Error> {
        Ok(Option::deserialize(from)?.map(Arc::new))
    }
}

/// `Option<(Arc<T>, U)>`.
pub(crate) mod arc_and {
    use super::*;

    pub(crate) fn serialize<T: Serialize, U: Serialize, S: Serializer>(
        value: &Option<(Arc<T>, U)>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value
            .as_ref()
            .map(|(first, second)| (&**first, second))
            .serialize(to)
    }

    pub(crate) fn deserialize<'de, T: Deserialize<'de>, U: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<(Arc<T>, U)>, D::Error> {
        let value = Option::<(T, U)>::deserialize(from)?;
        Ok(value.map(|(first, second)| (Arc::new(first), second)))
    }
}

/// `Result<Arc<T>, E>`.
pub(crate) mod arc_result {
    use super::*;

    pub(crate) fn serialize<T: Serialize, E: Serialize, S: Serializer>(
        value: &Result<Arc<T>, E>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_deref().serialize(to)
    }

    pub(crate) fn deserialize<'de, T: Deserialize<'de>, E: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Result<Arc<T>, E>, D::Error> {
        Ok(Result::<T, E>::deserialize(from)?.map(Arc::new))
    }
}

/// The dynamic configuration in force, as the document that says the same.
pub(crate) mod dynamic_config {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &Arc<DynamicConfig>, to: S) -> Result<S::Ok, S::Error> {
        value.adjusted_document().serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<DynamicConfig>, D::Error> {
        let document = serde_json::Value::deserialize(from)?;
        Ok(Arc::new(DynamicConfig::read(&document, Minimums::TAMADA).0))
    }
}

fn to_seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}

/// A time in seconds, to the microsecond.
pub(crate) mod seconds {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to_seconds(*value).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// A time in seconds, if there is one.
pub(crate) mod seconds_option {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        value.map(to_seconds).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        let seconds = Option::<f64>::deserialize(from)?;
        seconds
            .map(|seconds| Duration::try_from_secs_f64(seconds).map_err(D::Error::custom))
            .transpose()
    }
}

/// A moment on the boot-time clock, in seconds.
pub(crate) mod moment {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &Moment, to: S) -> Result<S::Ok, S::Error> {
        seconds::serialize(&value.0, to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Moment, D::Error> {
        seconds::deserialize(from).map(Moment)
    }
}
