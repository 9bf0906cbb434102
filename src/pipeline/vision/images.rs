//! Images to embeddings.

use std::collections::BTreeMap;
use std::ops::Range;

use super::VisionModel;
use super::resident::{Part, Side, finite_rows, name_of, rows_of};
use crate::base::DType;
use crate::error::{Error, Result};
use crate::gpu::{Caps, Pool, Store};
use crate::graph::{Graph, Session};
use crate::io::image::Planes;
use crate::models::vision::{Tokens, VisionTower, check_image, fold, grid, patches};
use crate::nn::{Param, Scope, Settings};
use crate::pipeline::context::Context;
use crate::pipeline::memory;
use crate::pipeline::planning::Planning;

/// Most images that run at once.
const IMAGES: usize = 16;
/// Most bytes of one tensor in a run of several images.
const BYTES: u64 = 64 << 20;

impl VisionModel {
    fn tower(&self) -> (VisionTower, Scope) {
        let scope = Scope::new(Side::Images.root(), Settings::default());
        (VisionTower::new(&scope, self.folder.images.clone()), scope)
    }

    pub(super) fn image_params(&self) -> Result<Vec<Param>> {
        Ok(self.tower().1.params())
    }

    /// Looks for every tensor of the image tower.
    pub(super) fn check_image_tensors(&self) -> Result<()> {
        for param in self.image_params()? {
            for from in &param.sources {
                self.image_tensor(&from.key, &from.shape)?.check_type()?;
                if let Some(scale) = self.scale_of(&from.key)? {
                    self.folder.image_tensor(&scale, &from.shape[..1])?.check_type()?;
                }
            }
        }
        self.tokens(self.folder.images.image).map(drop)
    }

    /// Tensor of `key` in the file; patches lie there as a convolution has them.
    fn image_tensor(&self, key: &str, shape: &[usize]) -> Result<crate::io::Tensor<'_>> {
        let (name, config) = (name_of(key)?, &self.folder.images);
        if name == "patches.weight" {
            let kernel = [config.hidden_size, config.channels, config.patch[0], config.patch[1]];
            return self.folder.image_tensor(name, &kernel);
        }
        self.folder.image_tensor(name, shape)
    }

    /// Name of the factors that are multiplied into the rows of `key`.
    fn scale_of(&self, key: &str) -> Result<Option<String>> {
        Ok(fold(name_of(key)?).filter(|_| self.folder.images.layer_scale()))
    }

    fn image_rows(&self, key: &str, shape: &[usize], rows: Range<usize>) -> Result<Vec<f32>> {
        let mut values = finite_rows(&self.image_tensor(key, shape)?, rows.clone())?;
        if let Some(scale) = self.scale_of(key)? {
            let factors = finite_rows(&self.folder.image_tensor(&scale, &shape[..1])?, rows.clone())?;
            let columns = values.len() / rows.len().max(1);
            for (row, factor) in values.chunks_mut(columns.max(1)).zip(factors) {
                row.iter_mut().for_each(|value| *value *= factor);
            }
        }
        Ok(values)
    }

    /// Checks that the model reads `image`.
    ///
    /// # Errors
    /// [`Error::Usage`] if it has other channels, is smaller than a patch, or of a size for which there are no positions.
    pub fn check(&self, image: &Planes) -> Result<()> {
        check_image(&self.folder.images, image)?;
        self.tokens([image.height, image.width]).map(drop)
    }

    /// Tokens for images of `sides`, height and width.
    fn tokens(&self, sides: [usize; 2]) -> Result<Tokens> {
        let (config, folder) = (&self.folder.images, &self.folder);
        let all = |name: &str, shape: &[usize]| finite_rows(&folder.image_tensor(name, shape)?, 0..shape[0]);
        let [rows, columns] = config.trained_grid();
        let class = all("class_token", &[config.hidden_size])?;
        let positions = all("positions", &[1 + rows * columns, config.hidden_size])?;
        let registers = match config.registers {
            0 => Vec::new(),
            count => all("registers", &[count, config.hidden_size])?,
        };
        Tokens::new(config, [&class, &registers, &positions], sides)
    }

    /// Images of `count` patches that run at once on an adapter with `caps`.
    fn batch(&self, caps: &Caps, count: usize) -> usize {
        let config = &self.folder.images;
        let inner = if config.gated { 2 * config.inner } else { config.inner };
        let widest = (3 * config.hidden_size).max(inner).max(config.patch_values());
        let bytes = DType::F32.bytes((count + 1 + config.registers) * widest);
        ((BYTES.min(caps.max_binding_bytes) / bytes.max(1)) as usize).clamp(1, IMAGES)
    }

    fn plan_images(&self, context: &Context, n: usize, grid: [usize; 2]) -> Result<Part> {
        self.resident.part(context, (Side::Images, n, grid), || self.record_images(context.planning(), n, grid))
    }

    fn record_images(&self, planning: Planning<'_>, n: usize, grid: [usize; 2]) -> Result<Part> {
        let (tower, scope) = self.tower();
        let (config, count) = (&self.folder.images, grid[0] * grid[1]);
        let mut g = Graph::new();
        let input = g.input("patches", [n, count, config.patch_values()], DType::F32);
        let leading = g.input("leading", [1, 1 + config.registers, config.hidden_size], DType::F32);
        let positions = g.input("positions", [1, count, config.hidden_size], DType::F32);
        let output = tower.forward(&mut g, input, [leading, positions])?;
        g.output(output);
        let (plan, params) = (planning.plan(&g)?, scope.params_in(&g));
        Ok(Part { plan, input, beside: vec![leading, positions], output, params })
    }

    /// Bytes on the device (weights, inputs and working memory) while single images of the model's own size are embedded, and
    /// FLOPs of one.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) if they do not fit the adapter.
    pub(crate) fn image_cost(&self, planning: Planning<'_>) -> Result<[u64; 2]> {
        let [height, width] = self.folder.images.image;
        let part = self.record_images(planning, 1, grid(&self.folder.images, height, width))?;
        let plan = &part.plan;
        let beside = plan.working_bytes() + plan.input_bytes + plan.uniform_bytes;
        Ok([memory::bytes(&part.params) + beside, plan.total_flops()])
    }

    /// Embeddings of prepared images, [`VisionModel::width`] values each: the class token after the last norm; of a CLIP,
    /// projected and not normalized. Images of one size run together.
    pub(crate) async fn embed_images(&self, context: &Context, images: &[Planes]) -> Result<Vec<Vec<f32>>> {
        context.gpu.in_error_scopes(Box::pin(self.run_images(context, images))).await
    }

    async fn run_images(&self, context: &Context, images: &[Planes]) -> Result<Vec<Vec<f32>>> {
        let mut sizes: BTreeMap<[usize; 2], Vec<usize>> = BTreeMap::new();
        for (i, image) in images.iter().enumerate() {
            sizes.entry([image.height, image.width]).or_default().push(i);
        }
        let mut embeddings = vec![Vec::new(); images.len()];
        for (sides, indices) in sizes {
            self.run_size(context, images, (sides, &indices), &mut embeddings).await?;
        }
        Ok(embeddings)
    }

    /// Embeds those of `images` that `indices` lists, which have these `sides`.
    async fn run_size(
        &self,
        context: &Context,
        images: &[Planes],
        (sides, indices): ([usize; 2], &[usize]),
        embeddings: &mut [Vec<f32>],
    ) -> Result<()> {
        let config = &self.folder.images;
        let grid = grid(config, sides[0], sides[1]);
        indices.iter().try_for_each(|i| check_image(config, &images[*i]))?;
        let tokens = self.tokens(sides)?;
        let n = self.batch(context.gpu.caps(), grid[0] * grid[1]).min(indices.len());
        let mut parts = vec![self.plan_images(context, n, grid)?];
        if !indices.len().is_multiple_of(n) {
            parts.push(self.plan_images(context, indices.len() % n, grid)?);
        }
        let gpu = &context.gpu;
        let fetch = |key: &str, shape: &[usize], rows: Range<usize>| self.image_rows(key, shape, rows);
        let weights = self.resident.weights(gpu, Side::Images, &parts[0].params, &fetch).await?;
        let weights = Store::beside(gpu, vec![weights]);
        let mut pool = Pool::default();
        pool.fit(gpu, &memory::pool(parts.iter().map(|part| &part.plan.arena)))?;
        let mut sessions = Vec::with_capacity(parts.len());
        for part in &parts {
            let session = Session::new(gpu, part.plan.clone(), &mut pool, &weights).await?;
            session.write(part.beside[0], &tokens.leading)?;
            session.write(part.beside[1], &tokens.positions)?;
            sessions.push(session);
        }
        for some in indices.chunks(n) {
            if context.cancel.is_cancelled() {
                return Err(Error::interrupted());
            }
            let at = usize::from(some.len() < n);
            let rows = some.iter().map(|i| patches(config, &images[*i])).collect::<Result<Vec<_>>>()?.concat();
            sessions[at].write(parts[at].input, &rows)?;
            sessions[at].run().await?;
            let made = rows_of(&sessions[at].read(parts[at].output).await?, config.width())?;
            some.iter().zip(made).for_each(|(i, embedding)| embeddings[*i] = embedding);
        }
        Ok(())
    }
}
