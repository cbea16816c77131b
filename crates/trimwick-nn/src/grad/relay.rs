//! The nodes that operations leave in candle's graph.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Tensor, TensorId, bail,
};

use super::cell::{self, Cell, Grad, buffer, recycle};
use super::sink;
use crate::ops::{Elem, by_dtype, owned};

/// The backward of an operation, which owns what it needs for it.
pub(crate) trait Backward<T: Elem>: Send + Sync + 'static {
    /// Sends what `g`, the gradient of the output, is for each input.
    fn backward(&self, g: &[T], to: &mut Inputs<'_, T>) -> Result<()>;
}

/// Where the gradients of a tensor go.
#[derive(Clone)]
struct Edge {
    /// What candle's graph is connected to: a node, or a tensor that no operation of this crate has made.
    node: Tensor,
    /// Of a node: where gradients wait for it.
    cell: Option<Arc<Cell>>,
}

/// What is known of a tensor that an operation has returned, or of a view of it.
struct Entry {
    edge: Edge,
    ids: Mutex<Vec<TensorId>>,
}

/// Entries by the tensors that they are known of, for as long as those live.
static ENTRIES: LazyLock<Mutex<HashMap<TensorId, Weak<Entry>>>> = LazyLock::new(Mutex::default);

fn entry_of(x: &Tensor) -> Option<Arc<Entry>> {
    let entries = ENTRIES.lock().unwrap_or_else(PoisonError::into_inner);
    entries.get(&x.id())?.upgrade()
}

impl Entry {
    fn knows(self: &Arc<Self>, y: &Tensor) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).push(y.id());
        let mut entries = ENTRIES.lock().unwrap_or_else(PoisonError::into_inner);
        entries.insert(y.id(), Arc::downgrade(self));
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut entries = ENTRIES.lock().unwrap_or_else(PoisonError::into_inner);
        for id in self.ids.get_mut().unwrap_or_else(PoisonError::into_inner) {
            entries.remove(id);
        }
    }
}

impl Edge {
    /// Of an argument; `None` when nobody wants its gradient.
    fn of(x: &Tensor) -> Option<Self> {
        if !x.track_op() {
            return None;
        }
        Some(match entry_of(x) {
            Some(entry) => entry.edge.clone(),
            None => Self { node: x.clone(), cell: None },
        })
    }

    /// A tensor with these values whose gradients go here.
    fn expose<T: Elem>(self, values: Vec<T>, shape: Shape) -> Result<Tensor> {
        let node = self.node.clone();
        let entry = Arc::new(Entry { edge: self, ids: Mutex::default() });
        let out = Mutex::new(Some((owned(values), shape)));
        let y = node.apply_op1(Expose { entry: entry.clone(), out })?;
        entry.knows(&y);
        Ok(y)
    }

    /// Takes a gradient that candle has made. What is returned is for candle to add.
    fn receive(&self, g: &Tensor) -> Result<Option<Tensor>> {
        if let Some(cell) = &self.cell {
            by_dtype!(g.dtype(), T => {
                let values = g.flatten_all()?.to_vec1::<T>()?;
                cell.update(|old| cell::give(old, values))
            })?;
            return Ok(Some(self.node.zeros_like()?));
        }
        let g = g.detach().reshape(self.node.shape())?;
        match sink::slot(&self.node) {
            Some(slot) => slot.with(|slot| slot.add(g)).map(|()| None),
            None => Ok(Some(g)),
        }
    }

    /// What candle is told after an operation has sent its gradients, of which `given` was left for it.
    fn settle<T: Elem>(&self, given: Option<Grad>) -> Result<Option<Tensor>> {
        match given {
            Some(grad) => {
                let values = match Arc::try_unwrap(grad) {
                    Ok(own) => T::cpu_storage_data(own)?,
                    Err(shared) => T::cpu_storage_as_slice(&shared)?.to_vec(),
                };
                Ok(Some(Tensor::from_vec(values, self.node.shape(), &Device::Cpu)?))
            }
            None if self.node.is_variable() => Ok(None),
            // Candle expects a gradient of everything that is not a variable.
            None => Ok(Some(self.node.zeros_like()?)),
        }
    }
}

/// The result of an operation on `inputs` (at most three), which is `values` and has the backward `op`. Where no input is
/// tracked it is a plain tensor.
pub(crate) fn record<T: Elem>(
    values: Vec<T>,
    shape: impl Into<Shape>,
    inputs: &[&Tensor],
    op: impl Backward<T>,
) -> Result<Tensor> {
    let shape = shape.into();
    let edges: Vec<Option<Edge>> = inputs.iter().map(|x| Edge::of(x)).collect();
    let nodes: Vec<Tensor> = edges.iter().flatten().map(|e| e.node.clone()).collect();
    let cell = Arc::<Cell>::default();
    let node = Node { op: Box::new(op), edges, cell: cell.clone(), of: PhantomData };
    let node = match nodes.as_slice() {
        [] => return Tensor::from_vec(values, shape, &Device::Cpu),
        [a] => a.apply_op1(node)?,
        [a, b] => a.apply_op2(b, node)?,
        [a, b, c] => a.apply_op3(b, c, node)?,
        more => bail!("an operation on {} tensors; at most three", more.len()),
    };
    Edge { node, cell: Some(cell) }.expose(values, shape)
}

/// Other values, with the gradient of `x`: a function whose derivative is taken to be 1.
pub(crate) fn pass_through<T: Elem>(x: &Tensor, values: Vec<T>, shape: impl Into<Shape>) -> Result<Tensor> {
    match Edge::of(x) {
        Some(edge) => edge.expose(values, shape.into()),
        None => Tensor::from_vec(values, shape, &Device::Cpu),
    }
}

/// Lets operations see through `y`, a view of all of `x` in row-major order that candle has made.
pub(crate) fn alias(x: &Tensor, y: &Tensor) {
    if x.id() != y.id()
        && y.track_op()
        && let Some(entry) = entry_of(x)
    {
        entry.knows(y);
    }
}

/// Where a backward sends the gradients of its inputs, which it names by their position. What is sent more than once to
/// one tensor is added up; what nobody wants goes nowhere.
pub(crate) struct Inputs<'a, T> {
    edges: &'a [Option<Edge>],
    /// The gradient of the output.
    g: &'a Grad,
    /// Gradients that candle gets.
    given: Vec<Option<Grad>>,
    of: PhantomData<T>,
}

impl<T: Elem> Inputs<'_, T> {
    /// Whether this backward is the last use of what the operation has kept: a sink takes the gradients.
    pub fn is_last(&self) -> bool {
        sink::is_collecting()
    }

    /// Whether somebody wants the gradient of input `i`; nobody wants that of an input that there is not.
    pub fn wants(&self, i: usize) -> bool {
        self.edges.get(i).is_some_and(Option::is_some)
    }

    /// Lets `f` write the gradient of input `i`, of `len` elements, if somebody wants it. `f` is told whether to add to what
    /// it is given, which otherwise holds anything.
    pub fn write(&mut self, i: usize, len: usize, f: impl FnOnce(&mut [T], bool)) -> Result<()> {
        let Some(edge) = &self.edges[i] else { return Ok(()) };
        if let Some(cell) = &edge.cell {
            return cell.update(|old| cell::write(old, len, f));
        }
        if let Some(slot) = sink::slot(&edge.node) {
            return slot.with(|slot| slot.write(f));
        }
        self.given[i] = Some(cell::write(self.given[i].take(), len, f)?);
        Ok(())
    }

    /// Lets `f` overwrite memory for the gradient of input `i`. It is called even when nobody wants that, for the sake of
    /// what else it makes.
    pub fn overwrite(&mut self, i: usize, len: usize, f: impl FnOnce(&mut [T])) -> Result<()> {
        if self.edges[i].is_none() {
            f(&mut buffer(len));
            return Ok(());
        }
        self.write(i, len, |dst, accumulate| match accumulate {
            false => f(dst),
            true => {
                let mut more = buffer::<T>(len);
                f(&mut more);
                trimwick_kernels::add_assign(dst, &more);
                recycle(Arc::new(owned(more)));
            }
        })
    }

    /// Sends `values` to input `i`.
    pub fn give(&mut self, i: usize, values: Vec<T>) -> Result<()> {
        let Some(edge) = &self.edges[i] else {
            recycle(Arc::new(owned(values)));
            return Ok(());
        };
        if let Some(cell) = &edge.cell {
            return cell.update(|old| cell::give(old, values));
        }
        if let Some(slot) = sink::slot(&edge.node) {
            return slot.with(|slot| slot.give(values));
        }
        self.given[i] = Some(cell::give(self.given[i].take(), values)?);
        Ok(())
    }

    /// Sends the gradient of the output to input `i` as it is.
    pub fn pass(&mut self, i: usize) -> Result<()> {
        let Some(edge) = &self.edges[i] else { return Ok(()) };
        if let Some(cell) = &edge.cell {
            return cell.update(|old| cell::share::<T>(old, self.g));
        }
        if let Some(slot) = sink::slot(&edge.node) {
            let g = T::cpu_storage_as_slice(self.g)?;
            return slot.with(|slot| slot.copy(g));
        }
        self.given[i] = Some(cell::share::<T>(self.given[i].take(), self.g)?);
        Ok(())
    }
}

/// A node of one element in candle's graph.
struct Node<T> {
    op: Box<dyn Backward<T>>,
    edges: Vec<Option<Edge>>,
    cell: Arc<Cell>,
    of: PhantomData<T>,
}

impl<T: Elem> Node<T> {
    fn forward(&self) -> Result<(CpuStorage, Shape)> {
        Ok((owned(vec![T::zero()]), Shape::from(())))
    }

    /// What candle is told of the tracked inputs, in their order.
    fn backward(&self) -> Result<impl Iterator<Item = Option<Tensor>>> {
        let mut given = vec![None; self.edges.len()];
        if let Some(g) = self.cell.take() {
            let mut to = Inputs { edges: &self.edges, g: &g, given, of: PhantomData };
            self.op.backward(T::cpu_storage_as_slice(&g)?, &mut to)?;
            given = to.given;
            recycle(g);
        }
        let told = self.edges.iter().zip(given).filter_map(|(edge, given)| {
            let edge = edge.as_ref()?;
            Some(edge.settle::<T>(given))
        });
        Ok(told.collect::<Result<Vec<_>>>()?.into_iter())
    }
}

const NAME: &str = "node";

impl<T: Elem> CustomOp1 for Node<T> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward()
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(self.backward()?.next().flatten())
    }
}

impl<T: Elem> CustomOp2 for Node<T> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward()
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut told = self.backward()?;
        Ok((told.next().flatten(), told.next().flatten()))
    }
}

impl<T: Elem> CustomOp3 for Node<T> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward()
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut told = self.backward()?;
        Ok((told.next().flatten(), told.next().flatten(), told.next().flatten()))
    }
}

/// From a node to the tensor that an operation returns.
struct Expose {
    entry: Arc<Entry>,
    out: Mutex<Option<(CpuStorage, Shape)>>,
}

impl CustomOp1 for Expose {
    fn name(&self) -> &'static str {
        "expose"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        match self.out.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(out) => Ok(out),
            None => bail!("expose: the values of an operation were asked for twice"),
        }
    }

    fn bwd(&self, _node: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        self.entry.edge.receive(g)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Var};

    use super::*;
    use crate::ops;

    #[test]
    fn nothing_is_remembered_of_tensors_that_are_gone() -> Result<()> {
        let x = Var::ones((2, 3), DType::F32, &Device::Cpu)?;
        let y = ops::swiglu(x.as_tensor(), x.as_tensor())?;
        let view = ops::reshape(&y, 6)?;
        let ids = [y.id(), view.id()];
        let known = |id: &TensorId| ENTRIES.lock().unwrap().contains_key(id);
        assert!(ids.iter().all(known));
        drop(y);
        assert!(ids.iter().all(known), "the view keeps what it is a view of");
        drop(view);
        assert!(!ids.iter().any(known));
        Ok(())
    }
}
