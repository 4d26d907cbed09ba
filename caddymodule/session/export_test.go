package session

import "weak"

// CacheOf returns a weak pointer to the cache of a Manager.
func CacheOf(m *Manager) weak.Pointer[cache] { return weak.Make(m.cache.Load()) }

// Cached returns how many sessions a Manager keeps in memory.
func Cached(m *Manager) int { return m.cache.Load().sessions.EstimatedSize() }
