def export_adapter(session, state, prepared, path): path.write_bytes(b"x")
def finish(session, state, prepared, folder, emit): pass
