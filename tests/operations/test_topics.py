def test_x(kafka, fresh_topics, redis_server):
    """x"""
    print(fresh_topics())
