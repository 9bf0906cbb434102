//! Where results go: nothing that was there is lost, and no result of finished work.
