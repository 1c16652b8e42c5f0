"""A cache of keys and values for sampling with the training model."""

from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """Keys and values with room for the tokens to come: transformers' own copies all for every token."""

    ROOM = 32
    buffers = None

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        states = (key_states, value_states)
        length = self.get_seq_length()
        end = length + key_states.shape[-2]
        if self.buffers is None or end > self.buffers[0].shape[-2]:
            self.buffers = [new.new_empty(*new.shape[:-2], end + self.ROOM, new.shape[-1]) for new in states]
            for buffer, old in zip(self.buffers, (self.keys, self.values)):
                if length:
                    buffer[..., :length, :] = old
        for buffer, new in zip(self.buffers, states):
            buffer[..., length:end, :] = new
        self.keys, self.values = (buffer[..., :end, :] for buffer in self.buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices):
        super().batch_select_indices(indices)
        self.buffers = None  # the rows that stay are copies of their own
