//! Features to the decoder's width on a device, a chunk a run.

use std::ffi::CStr;

use half::f16;

use crate::engine::tensorrt::shim::{Bound, Device, DeviceEngine, Dtype, Shared, ShimError, Stream, TensorInfo};
use crate::engine::tensorrt::{Plan, Room, id, names};
use crate::engine::{EngineError, Projector};
use crate::units::{Bytes, Tokens};

const ENGINE: &str = "tensorrt projector";

/// Which rows an engine makes of which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsOf {
    /// `features` → `rows`.
    Features,
    /// `tokens` → `refined`: the selected tokens' MLP.
    Tokens,
}

impl RowsOf {
    fn names(self) -> [&'static CStr; 2] {
        match self {
            Self::Features => [names::FEATURES, names::ROWS],
            Self::Tokens => [names::TOKENS, names::REFINED],
        }
    }
}

/// `[n,d_v]` f16 → `[n,d]` f32, for at most `chunk` rows.
pub struct TensorrtProjector {
    id: String,
    names: [&'static CStr; 2],
    chunk: Tokens,
    feature_dim: usize,
    hidden: usize,
    engine: DeviceEngine,
    features: Shared<f16>,
    rows: Shared<f32>,
    stream: Stream,
}

impl TensorrtProjector {
    /// The engine of `plan` on `device`, whose tensors are `[any,d_v]` f16 and `[any,d]` f32, called as `of` says, and memory for its work.
    ///
    /// # Errors
    /// A tensor that differs, by its name; out of memory, with figures; a lost device.
    pub fn load<'a>(
        device: &Device,
        (plan, of): (impl Into<Plan<'a>>, RowsOf),
        chunk: Tokens,
        [feature_dim, hidden]: [usize; 2],
    ) -> Result<Self, EngineError> {
        let names = of.names();
        let load = || {
            let features = TensorInfo::new(Dtype::F16, &[0, feature_dim]);
            let rows = TensorInfo::new(Dtype::F32, &[0, hidden]);
            Ok(Self {
                id: id(device),
                names,
                chunk,
                feature_dim,
                hidden,
                engine: device.engine(plan, &[(names[0], features), (names[1], rows)])?,
                features: device.shared("features", chunk.get() * feature_dim)?,
                rows: device.shared("projected rows", chunk.get() * hidden)?,
                stream: device.stream()?,
            })
        };
        load().map_err(|source| EngineError::Device { engine: ENGINE, source })
    }

    /// What [`Self::load`] takes of the device beside its engine.
    pub fn buffers(room: &mut Room, chunk: Tokens, [feature_dim, hidden]: [usize; 2]) {
        room.shared::<f16>(chunk.get() * feature_dim);
        room.shared::<f32>(chunk.get() * hidden);
    }

    fn run(&mut self, features: &[f16], out: &mut [f32]) -> Result<(), ShimError> {
        let rows = features.len() / self.feature_dim;
        self.features.to_write()?[..features.len()].copy_from_slice(features);
        self.features.send(&self.stream, features.len())?;
        // One that failed midway may have left its rows on their way.
        self.rows.wait()?;
        let from = Bound::shared(self.names[0], &mut self.features, &[rows, self.feature_dim]);
        let to = Bound::shared(self.names[1], &mut self.rows, &[rows, self.hidden]);
        self.stream.enqueue(&self.engine, &[from, to])?;
        out.copy_from_slice(self.rows.fetch(&self.stream, out.len())?);
        Ok(())
    }
}

impl Projector for TensorrtProjector {
    fn id(&self) -> &str {
        &self.id
    }

    fn bytes(&self) -> Bytes {
        self.engine.bytes() + self.features.bytes() + self.rows.bytes()
    }

    fn chunk(&self) -> Tokens {
        self.chunk
    }

    fn project(&mut self, features: &[f16], out: &mut [f32]) -> Result<(), EngineError> {
        let rows = features.len() / self.feature_dim;
        if rows > self.chunk.get() || features.len() != rows * self.feature_dim || out.len() != rows * self.hidden {
            return Err(EngineError::Length { engine: ENGINE, what: "projected rows", wanted: rows * self.hidden, found: out.len() });
        }
        if rows == 0 {
            return Ok(());
        }
        self.run(features, out).map_err(|source| EngineError::Device { engine: ENGINE, source })
    }
}
