//! How what many own together is written and read: as a value of its own each time.

use std::sync::Arc;

use config::{DynamicConfig, Minimums};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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
