//! Component metadata, as QGroundControl reads it over MAVLink FTP: which parameters there are and what they mean.
//! Source: <https://mavlink.io/en/services/component_information.html>.

/// `general.json`.
pub const GENERAL: &str = include_str!("metadata/general.json");
/// `parameters.json`.
pub const PARAMETERS: &str = include_str!("metadata/parameters.json");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::standard::param::PARAMS;

    #[test]
    fn every_parameter_is_described_with_its_range() {
        let file: serde_json::Value = serde_json::from_str(PARAMETERS).unwrap();
        let described: Vec<_> = file["parameters"].as_array().unwrap().iter().collect();
        assert_eq!(described.len(), PARAMS.len());
        for (name, least, most) in PARAMS {
            let entry = described.iter().find(|entry| entry["name"] == name).unwrap();
            assert_eq!((entry["min"].as_f64(), entry["max"].as_f64()), (Some(least.into()), Some(most.into())), "{name}");
        }
        let general: serde_json::Value = serde_json::from_str(GENERAL).unwrap();
        assert_eq!(general["metadataTypes"][0]["uri"], "mftp:///parameters.json");
        let crc = general["metadataTypes"][0]["fileCrc"].as_u64().unwrap();
        assert_eq!(crc, u64::from(crate::link::standard::ftp::crc32(PARAMETERS.as_bytes())));
    }
}
