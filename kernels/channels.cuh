// V neighbouring channels of a position, read and written at once.

template <typename T, int V> struct __align__(sizeof(T) * V) Channels { T v[V]; };
