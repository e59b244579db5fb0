//! The files of a qualification: qualification.json, junit.xml, report.html.

use std::path::Path;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::qualify::document::{Outcome, Qualification, Verdict};
use crate::qualify::{QualifyError, page};

/// Writes all three into `folder`, which is made where it isn't there. The calibration is written last: a run that can't write leaves the old one.
///
/// # Errors
/// A folder or a file that can't be written.
pub fn write(folder: &Path, document: &Qualification) -> Result<(), QualifyError> {
    let failed = |path: &Path, found: String| QualifyError::File { path: path.to_owned(), wanted: "a file written", found };
    std::fs::create_dir_all(folder).map_err(|error| failed(folder, error.to_string()))?;
    let put = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|error| failed(&path, error.to_string()))
    };
    put("report.html", page::html(document))?;
    put("junit.xml", junit(document).map_err(|error| failed(&folder.join("junit.xml"), error))?)?;
    let json = serde_json::to_string_pretty(document).map_err(|error| failed(&folder.join("qualification.json"), error.to_string()))?;
    put("qualification.json.new", json + "\n")?;
    let path = folder.join("qualification.json");
    std::fs::rename(folder.join("qualification.json.new"), &path).map_err(|error| failed(&path, error.to_string()))
}

/// A test case a verdict.
fn junit(document: &Qualification) -> Result<String, String> {
    let mut suite = TestSuite::new(format!("{} on {}", document.calibration.identity.model, document.calibration.identity.profile));
    for Verdict { what, limit, found, outcome } in &document.verdicts {
        let message = format!("wanted {limit}, found {found}");
        let status = match outcome {
            Outcome::Met => TestCaseStatus::success(),
            Outcome::NotMet => {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status.set_message(message.clone());
                status
            }
            Outcome::NotShown => {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status.set_message(format!("not shown: {message}"));
                status
            }
            Outcome::NoLimit => TestCaseStatus::skipped(),
        };
        let mut case = TestCase::new(what.clone(), status);
        case.set_classname("qualification");
        case.set_system_out(message);
        suite.add_test_case(case);
    }
    let mut report = Report::new("uhr-edge qualify");
    report.add_test_suite(suite);
    report.to_string().map_err(|error| error.to_string())
}
