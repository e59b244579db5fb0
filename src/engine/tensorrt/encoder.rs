//! Tiles to features on a device.
//!
//! # Why
//! Two tiles are under way at once: while the device works on one, the host copies the next into memory of both, and the last one's features out of it.

use half::f16;

use crate::engine::onnx::EncoderShape;
use crate::engine::tensorrt::shim::{Bound, Device, DeviceEngine, Dtype, Shared, ShimError, Stream, TensorInfo};
use crate::engine::tensorrt::{Plan, Room, id, names};
use crate::engine::{EngineError, VisionEncoder};
use crate::kernels::Pool;
use crate::units::Bytes;

const ENGINE: &str = "tensorrt encoder";
/// Tiles under way at once.
const LANES: usize = 2;

/// `[n,3,T,T]` f32 → `[n,P,d_v]` f16, a tile a run.
pub struct TensorrtEncoder {
    id: String,
    shape: EncoderShape,
    engine: DeviceEngine,
    lanes: [Lane; LANES],
    stream: Stream,
}

/// Memory of one tile on its way.
struct Lane {
    tile: Shared<f32>,
    features: Shared<f16>,
}

impl Lane {
    fn new(device: &Device, shape: EncoderShape) -> Result<Self, ShimError> {
        Ok(Self { tile: device.shared("a tile", shape.values_in())?, features: device.shared("a tile's features", shape.values_out())? })
    }

    fn bytes(&self) -> Bytes {
        self.tile.bytes() + self.features.bytes()
    }

    /// Sends a tile on its way.
    fn start(&mut self, stream: &Stream, engine: &DeviceEngine, shape: EncoderShape, tile: &[f32]) -> Result<(), ShimError> {
        let side = shape.tile.get();
        self.tile.to_write()?.copy_from_slice(tile);
        self.tile.send(stream, tile.len())?;
        // One that failed midway may have left its features on their way.
        self.features.wait()?;
        let tile = Bound::shared(names::TILES, &mut self.tile, &[1, 3, side, side]);
        let features = Bound::shared(names::FEATURES, &mut self.features, &[1, shape.tokens(), shape.feature_dim]);
        stream.enqueue(engine, &[tile, features])?;
        self.features.ask(stream, shape.values_out())
    }

    /// Waits for what was sent.
    fn finish(&mut self, out: &mut [f16]) -> Result<(), ShimError> {
        self.features.wait()?;
        out.copy_from_slice(self.features.values()?);
        Ok(())
    }
}

impl TensorrtEncoder {
    /// The engine of `plan` on `device`, whose tensors are `tiles` `[any,3,T,T]` f32 and `features` `[any,P,d_v]` f16, and memory for its work.
    ///
    /// # Errors
    /// A tensor that differs, by its name; out of memory, with figures; a lost device.
    pub fn load<'a>(device: &Device, plan: impl Into<Plan<'a>>, shape: EncoderShape) -> Result<Self, EngineError> {
        let load = || {
            let side = shape.tile.get();
            let tiles = TensorInfo::new(Dtype::F32, &[0, 3, side, side]);
            let features = TensorInfo::new(Dtype::F16, &[0, shape.tokens(), shape.feature_dim]);
            let engine = device.engine(plan, &[(names::TILES, tiles), (names::FEATURES, features)])?;
            let lanes = [Lane::new(device, shape)?, Lane::new(device, shape)?];
            Ok(Self { id: id(device), shape, engine, lanes, stream: device.stream()? })
        };
        load().map_err(|source| EngineError::Device { engine: ENGINE, source })
    }

    /// What [`Self::load`] takes of the device beside its engine.
    pub fn buffers(room: &mut Room, shape: EncoderShape) {
        for _ in 0..LANES {
            room.shared::<f32>(shape.values_in());
            room.shared::<f16>(shape.values_out());
        }
    }

    fn encode_all(&mut self, tiles: &[f32], out: &mut [f16]) -> Result<(), ShimError> {
        let (values_in, values_out) = (self.shape.values_in(), self.shape.values_out());
        let count = tiles.len() / values_in;
        for number in 0..count + LANES {
            let lane = &mut self.lanes[number % LANES];
            if let Some(before) = number.checked_sub(LANES).filter(|before| *before < count) {
                lane.finish(&mut out[before * values_out..][..values_out])?;
            }
            if number < count {
                lane.start(&self.stream, &self.engine, self.shape, &tiles[number * values_in..][..values_in])?;
            }
        }
        Ok(())
    }
}

impl VisionEncoder for TensorrtEncoder {
    fn id(&self) -> &str {
        &self.id
    }

    fn bytes(&self) -> Bytes {
        self.engine.bytes() + self.lanes.iter().map(Lane::bytes).sum()
    }

    fn encode(&mut self, tiles: &[f32], out: &mut [f16], _pool: &Pool) -> Result<(), EngineError> {
        let (values_in, values_out) = (self.shape.values_in(), self.shape.values_out());
        let count = tiles.len() / values_in;
        if tiles.len() != count * values_in || out.len() != count * values_out {
            return Err(EngineError::Length { engine: ENGINE, what: "features", wanted: count * values_out, found: out.len() });
        }
        self.encode_all(tiles, out).map_err(|source| EngineError::Device { engine: ENGINE, source })
    }
}
